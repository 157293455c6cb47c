"""The control plane: starts the engine, answers its questions, reloads, stops.

`service.Service` owns the engine; everything runs on one asyncio loop, users' functions on one of their own. Traffic
never waits for anything here.
"""
