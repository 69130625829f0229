"""Programs written call by call, simplified as they are written."""
