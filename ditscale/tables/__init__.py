"""Tables as people have them: files of many forms, names of columns that are not ours, numbers as they are typed."""
