terraform {
  required_version = ">= 1.11, < 2.0" # write-only arguments, validations across variables
  required_providers {
    aws = {
      source  = "hashicorp/aws"
      version = ">= 5.90, < 6.0"
    }
  }
}
