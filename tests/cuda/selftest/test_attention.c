void test_attention(void);
void test_attention(void) {}
