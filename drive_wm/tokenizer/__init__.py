"""Camera frame <-> discrete tokens and continuous latents."""
