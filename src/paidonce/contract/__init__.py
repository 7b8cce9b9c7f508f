"""The contract suite: what every gateway must do, as tests that run on any of them (see docs/adding-a-gateway.md).

    pytest --pyargs paidonce.contract --gateway acme_pay

It needs the extra `paidonce[contract]`. What a gateway tells the suite about itself is described in `hooks`.
"""
