// What went wrong, in words for people.

export class Problem extends Error {
  /**
   * status, kind: the HTTP status and the problem's kind, where the service refused; retryAfter: seconds, where it asks
   * to come again.
   */
  constructor(title, detail, { status = null, kind = null, retryAfter = null } = {}) {
    super(title);
    Object.assign(this, { detail, status, kind, retryAfter });
  }
}

/** Title, detail and status of any error. */
export function explain(error) {
  if (error instanceof Problem) return { title: error.message, detail: error.detail, status: error.status };
  return { title: "Something failed in this page", detail: String(error?.message ?? error), status: null };
}
