"""A check of an accelerator: are results right there, and how fast is a step?"""
