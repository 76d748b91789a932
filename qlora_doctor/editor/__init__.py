"""Inside an editor: the config stage on the text as it stands on the screen.

``analysis`` looks, ``hover`` and ``actions`` say what is known of a place, ``server`` speaks the protocol.
"""
