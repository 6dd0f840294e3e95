"""`python -m duly_ros2` is the command duly-ros2."""

from duly_ros2.command import main

main()
