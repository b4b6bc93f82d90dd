"""Azure as the product meets it: tokens, Key Vault, role assignments. No Django; everything comes in frozen values.

Nothing of the vendor's clients leaves this package: neither their objects nor their errors.
"""
