"""What other systems know about a fleet, read into :class:`plenum.model.Fleet`; one file per source.

Way in: ``read_fleet(path, ...)`` of each module. A file that is wrong ends in a ``FieldError`` or ``FileError`` that
names file, line and field.
"""
