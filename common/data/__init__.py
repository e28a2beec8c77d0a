"""Pictures and records: files of faces in and out, whatever their form."""
