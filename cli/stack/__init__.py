"""Starting, watching and stopping the processes of a local stack; knows nothing of what they do."""
