"""The jobs people run: simulate, replay, audit, report; configuration, composition and the command line."""
