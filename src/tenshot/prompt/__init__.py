"""What people write into prompts, in the language of AUTOMATIC1111's WebUI."""
