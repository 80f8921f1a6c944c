"""Says before anything moves what is wrong with a set-up; ``vla_doctor`` is its command.

Each check is a function that is given the :class:`~vla_ros.doctor.facts.Facts` which the checks
before it have found out, adds its own, and yields findings. Importing a check imports nothing
heavy: torch and rclpy are what may be broken, so each is imported where it is looked at.
"""
