"""What an app is told to be: its manifest, its root, its limits, its specification."""
