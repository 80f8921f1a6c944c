# SPDX-License-Identifier: Apache-2.0
"""A policy on a server as a policy of this node: ``model:=ws://host:8000`` and its variants.

=====================  ==========================================================================
``ws://HOST:PORT``     websocket with msgpack: ``vla_serve``, or any server of openpi's protocol
``wss://HOST:PORT``    the same over TLS; certificates are checked
``http://HOST/act``    REST with JSON: the servers of OpenVLA and OpenVLA-OFT; also ``https://``
=====================  ==========================================================================

Freshness, time-outs and motion stay with the robot's node. A session is one connection. A request
without an answer ends with its connection, so that a late answer is never read for a later request.
One asyncio thread owns all connections (``network.py``); the policy's thread waits for results.

``dialects.py`` turns observations into messages and answers into predictions, ``websocket.py`` and
``rest.py`` carry them. ``failures.py`` says which failures a user must handle: after one of these
nothing is tried again.
"""
