"""Which method for these pictures? Every one is trained, and measured alike."""
