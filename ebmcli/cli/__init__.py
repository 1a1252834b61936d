"""The commands: one thin file each, which reads words, calls the rooms below, and prints.

What they share begins with an underscore: `_app` is the command line, `_options` the options that several take,
`_output` what is printed, `_streams` the terminal and pipes, `_fetching` the way to data that is not here yet,
`_attended` a learner that ends with the sweep that began it.
"""
