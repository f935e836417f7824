"""Video: frames are colorized, stabilized, and written so that a run can be resumed."""
