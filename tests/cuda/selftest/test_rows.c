void test_rows(void);
void test_rows(void) {}
