"""Video files and folders of frames as frames on a clock; only `container` and `write` import the decoder."""
