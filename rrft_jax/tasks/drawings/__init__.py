"""The drawings of the tasks: pictures with exact answers."""
