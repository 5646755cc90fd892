"""The console's pages: for instructors, and for administrators."""
