void test_mm(void);
void test_mm(void) {}
