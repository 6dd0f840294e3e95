"""What `duly doctor` looks at: the machine, the settings, and which accelerators truly run."""
