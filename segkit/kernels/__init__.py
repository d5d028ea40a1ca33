"""Operations worth fusing; the eager functions here define them."""
