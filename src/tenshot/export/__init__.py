"""Results put where user interfaces look for them."""
