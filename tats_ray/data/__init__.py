"""From video files on disk to clips: manifests, decoding, order, loading, and synthetic videos; no Ray."""
