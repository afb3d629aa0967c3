"""Before anything is trained: what the pictures are, and what each method would take here."""
