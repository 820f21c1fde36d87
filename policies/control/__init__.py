"""Acting: windows and chunks of many robots, controllers, action guard."""
