package shop;

import com.fasterxml.jackson.annotation.JsonProperty;

record Order(@JsonProperty("order") long number, String customer, String item, int quantity) {}
