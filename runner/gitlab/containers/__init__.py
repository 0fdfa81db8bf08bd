"""A job's `image:` and `services:`, in the Docker Engine of its sandbox.

`policy` says which images and names are allowed, `plan` makes all decisions that can be made outside (pure), and
`inside` holds the programs that carry them out in the sandbox.
"""
