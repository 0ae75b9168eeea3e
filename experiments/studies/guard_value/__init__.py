"""How often the watch takes a harmless change for a harmful one, and how often it finds a harmful one."""
