"""Models and accelerators that are known, as data with sources.

Way in: :func:`~plenum.serving.catalogue.models.model_named` and :func:`~plenum.serving.catalogue.accelerators.accelerator_named`.
A new model is one entry in the file of its family; a new accelerator one entry in ``nvidia.py`` or ``other_accelerators.py``.
"""
