"""What a demonstration found: a page for a person, contact sheets, JSON for a program."""
