package shop;

class OutOfStockException extends Exception {
    private static final long serialVersionUID = 1L;

    OutOfStockException(String item) {
        super("not enough of " + item);
    }
}
