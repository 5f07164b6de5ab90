"""Table files: sorted rows as an Arrow IPC file, with what the engine needs behind Arrow's end mark. See docs/format.md."""
