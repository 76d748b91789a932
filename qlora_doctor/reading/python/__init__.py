"""Python read as text: what a training script would build, without running a line of it.

Four kinds of modules, each built on those before it:

- The code: ``source``, ``newer``, ``neighbours``, ``starts`` (files and command lines), ``scopes``, ``values``,
  ``provenance``, ``arithmetic``, ``expressions``, ``machine``, ``functions``, ``modules`` (a script
  followed in its order).
- What it calls: ``builtin_calls``, ``hf_calls``, ``files``, ``arguments``, ``argparsing``, ``command_line``, ``hydra``,
  ``model_config``.
- What that means: ``training_script``, ``parts``, ``training``, ``statements``, ``changes``, ``named_data``,
  ``data_path``, ``uses``, ``keywords``; ``setup_builder`` makes the Setup of it.
- What is wrong with it by itself: ``order_of_calls``, ``outcomes``, ``own_functions``, ``arithmetic_of_updates``,
  ``unused``.
"""
