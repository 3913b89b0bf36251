"""The two pools and the link between them: who runs where, what is in flight, and the actors that do it."""
