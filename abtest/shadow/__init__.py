"""Shadow comparison: a challenger predicts beside the champion and is judged. May import what `abtest` may."""
