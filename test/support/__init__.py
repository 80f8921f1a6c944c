"""What the tests share: tools that have no tests of their own."""
