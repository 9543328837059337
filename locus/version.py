"""The version of Locus.

In a module of its own, which the other packages import: in the folder that holds a clone called `locus`, Python takes
that folder for the package, where this module is found and a name of the package's own is not.
"""

__version__ = "0.1.0"
