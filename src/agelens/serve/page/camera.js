// Taking a photo with the camera: it starts when the user says so, and it ends with the dialog.

const NAMES = {
  NotAllowedError: "The browser was not allowed to use the camera. Its address bar shows how to allow it.",
  NotFoundError: "No camera was found.",
  NotReadableError: "The camera is in use by another program.",
};

export class Camera {
  #stream = null;

  /** `onPhoto` gets every photo that is taken, as a File; `announce` says things aloud; `live` shows ages meanwhile. */
  constructor(dialog, onPhoto, announce, live) {
    const find = (name) => dialog.querySelector(`[data-part="${name}"]`);
    this.dialog = dialog;
    this.video = find("video");
    this.note = find("note");
    this.choice = find("choice");
    this.cameras = find("cameras");
    this.buttons = { start: find("start"), take: find("take"), stop: find("stop") };
    this.announce = announce;
    this.live = live;
    this.buttons.start.addEventListener("click", () => this.#start());
    this.cameras.addEventListener("change", () => {
      this.#stop("");
      this.#start();
    });
    this.buttons.stop.addEventListener("click", () => this.#stop("The camera is off."));
    this.buttons.take.addEventListener("click", async () => onPhoto(await this.#take()));
    find("close").addEventListener("click", () => dialog.close());
    dialog.addEventListener("close", () => this.#stop(""));
    window.addEventListener("pagehide", () => this.#stop(""));
  }

  /** Why there can be no camera here; null if there may be one. */
  static get missing() {
    if (!window.isSecureContext) return "the camera needs https, or a page on this computer itself";
    return navigator.mediaDevices?.getUserMedia ? null : "this browser offers no camera";
  }

  open() {
    this.#show(false, "");
    this.dialog.showModal();
  }

  async #start() {
    this.buttons.start.disabled = true;
    try {
      const which = this.cameras.value ? { deviceId: { exact: this.cameras.value } } : { facingMode: "user" };
      const video = { ...which, width: { ideal: 1280 }, height: { ideal: 720 } };
      const stream = await navigator.mediaDevices.getUserMedia({ video, audio: false });
      if (!this.dialog.open) return stream.getTracks().forEach((track) => track.stop());
      this.#stream = stream;
      const gone = () => this.#stop("The camera has gone: it was unplugged, or may not be used any more.");
      stream.getTracks().forEach((track) => track.addEventListener("ended", gone));
      this.video.srcObject = this.#stream;
      await this.video.play();
      await this.#list(stream);
      this.#show(true, "The camera is on. Nothing is kept or sent until you take a photo.");
      this.buttons.take.focus();
      this.live.start();
    } catch (error) {
      this.#stop(NAMES[error.name] ?? `The camera cannot be used: ${error.message}`);
    } finally {
      this.buttons.start.disabled = false;
    }
  }

  /** Offer the cameras to choose from; browsers name them once one may be used. */
  async #list(stream) {
    const devices = await navigator.mediaDevices.enumerateDevices();
    const cameras = devices.filter(({ kind, deviceId }) => kind === "videoinput" && deviceId);
    const { deviceId: used, facingMode } = stream.getVideoTracks()[0].getSettings();
    const options = cameras.map(({ deviceId, label }, index) => {
      return new Option(label || `Camera ${index + 1}`, deviceId, false, deviceId === used);
    });
    this.cameras.replaceChildren(...options);
    this.video.classList.toggle("mirrored", facingMode !== "environment");
  }

  #stop(note) {
    this.live.stop();
    this.#stream?.getTracks().forEach((track) => track.stop());
    this.#stream = null;
    this.video.srcObject = null;
    this.#show(false, note);
  }

  #show(on, note) {
    const hadFocus = [this.buttons.stop, this.buttons.take].includes(document.activeElement);
    this.video.hidden = !on;
    this.choice.hidden = !on || this.cameras.length < 2;
    this.buttons.start.hidden = on;
    this.buttons.take.hidden = !on;
    this.buttons.stop.hidden = !on;
    this.note.textContent = note;
    if (note) this.announce(note);
    if (hadFocus && !on && this.dialog.open) this.buttons.start.focus();
  }

  async #take() {
    const { videoWidth: width, videoHeight: height } = this.video;
    const canvas = document.createElement("canvas");
    Object.assign(canvas, { width, height });
    canvas.getContext("2d").drawImage(this.video, 0, 0);
    const blob = await new Promise((resolve) => canvas.toBlob(resolve, "image/jpeg", 0.95));
    this.dialog.close();
    const time = new Date().toLocaleTimeString();
    return new File([blob], `Camera ${time}`, { type: "image/jpeg" });
  }
}
