"""The compiled operators in C++: header files and one library; `pip install` compiles them where it can."""
