"""What runs Warren somewhere: a private broker on this machine, Compose, the demo. Not part of the package."""
