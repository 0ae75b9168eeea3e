"""Studies: a question, its set-up, its table. Each is three files: `study.md`, `config.yaml`, `run.py`."""
