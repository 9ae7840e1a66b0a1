"""The 26 people of the hops model's world. Each name is one token, with and without a space before it."""

NAMES = ("Ann Bob Cat Dan Eve Fay Gus Hal Ivy Jon Kim Leo Mia Ned Oda Pam Quin Ray Sue Tom Uma Val Wes Xia Yan "
         "Zoe").split()
