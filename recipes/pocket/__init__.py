"""How the pocket model that ships with Tenshot was made, from named picture sets to the folder under assets/."""
