// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.24;

import {ERC20} from "@openzeppelin/contracts/token/ERC20/ERC20.sol";

/// An ordinary ERC-20 whose first owner holds everything, with one rule of its own that refuses in words.
contract Token is ERC20 {
    uint256 public immutable payLimit;

    constructor(uint256 supply, uint256 limit) ERC20("Quorate Test Token", "QTT") {
        payLimit = limit;
        _mint(msg.sender, supply);
    }

    /// A transfer that refuses large amounts: a revert with a reason string.
    function pay(address to, uint256 amount) external returns (bool) {
        require(amount <= payLimit, "Token: above the limit");
        return transfer(to, amount);
    }
}
