void test_moe(void);
void test_moe(void) {}
