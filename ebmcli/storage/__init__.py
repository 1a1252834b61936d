"""What is kept on a disk, and how it is read again (floors 0 and 2).

    disk     the few operations that everything kept goes through, and that tests break
    files    files written whole or not at all, lines added to a file
    kinds    what a file is, by its first bytes
    locks    one process at a time in a folder
    paths    paths as people type them
    private  folders and files that no other user can write to
    reading  JSON, lines of JSON and TOML, each with a schema or limits, and one clear error
    tensors  safetensors files, written and read with checks
    seals    checksums, and what a file or folder turned out to be: sound, damaged, unverifiable

`disk`, `files`, `locks`, `paths` and `private` need the standard library only.
"""
