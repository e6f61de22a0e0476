"""From moving pictures to one steady age for each person: decoding, tracks, fusion over frames, output."""
